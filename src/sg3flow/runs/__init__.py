"""What a training run leaves in its folder, where it comes from, and how to make it again."""
