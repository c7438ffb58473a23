"""Planning: from spec, inventory and the parent blueprint to the child blueprint. Pure; one file per duty."""
