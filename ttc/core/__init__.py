"""Types, protocols, errors, names and pure functions that everything else stands on."""
