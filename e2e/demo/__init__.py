"""`make demo`: the main job, from a bare machine to Toncoin, in twelve steps that print what they proved."""
