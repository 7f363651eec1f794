"""Labels of starts that end at no fixed point."""

UNRESOLVED, DIVERGED, INFEASIBLE = -1, -2, -3
