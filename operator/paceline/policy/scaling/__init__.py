"""How many engines, in which role: the engine model, demand, sizing and the planner."""
