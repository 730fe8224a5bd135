"""`tierwise replay`: what the gateway would have made of a log of yours."""
