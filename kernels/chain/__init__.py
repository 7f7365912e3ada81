"""Chain: many stages run by one native call (plan.cc). It has no contract of its own: it runs those of the others."""
