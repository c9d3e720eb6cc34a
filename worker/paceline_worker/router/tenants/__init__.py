"""Tenants at the router: who somebody is by an API key, what that one may use, and what it used."""
