"""How fast the parts are, measured back to back with what people use otherwise."""
