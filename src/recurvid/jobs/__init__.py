"""A queue of videos that loses nothing: states, store, limits, access, worker and supervisor."""
