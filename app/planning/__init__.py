"""`tierwise plan`: what a load takes, from measured service times."""
