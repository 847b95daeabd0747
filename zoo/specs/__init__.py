"""The contracts, all without torch: what a plugin returns, what a recipe, a plan and a result hold."""
