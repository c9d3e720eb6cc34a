"""Whether engines are well, told by what they say and how fast: compared with one another, never with a constant."""
