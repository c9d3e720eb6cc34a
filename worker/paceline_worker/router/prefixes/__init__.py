"""What the router knows of the engines' caches: fed by their events and by what was sent, asked at each placement."""
