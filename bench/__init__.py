"""`python -m bench` measures the agent and the tools that its users would otherwise choose, and compares them."""
