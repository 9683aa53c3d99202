"""What runs around the training: pictures and the device report."""
