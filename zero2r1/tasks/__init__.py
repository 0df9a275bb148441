"""Where problems come from: the procedural laptop world, and files of questions with answers."""
