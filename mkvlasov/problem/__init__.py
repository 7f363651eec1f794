"""What is learnt: frozen data without time and without numerics."""
