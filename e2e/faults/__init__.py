"""`kill -9` of operator, broker and settler at named points of the demo's steps 7 to 10: the end state must be the same.

`python -m e2e.faults` plays the main job once, on the real cluster, with one kill of each of the three.  SEED chooses the points; it is
printed, and the same one plays the same points again.  `points` names them, `endstate` says what "the same" means.
"""
