"""The controller's side of the agents' connections: their authority, their listener, and the ports that reach them."""
