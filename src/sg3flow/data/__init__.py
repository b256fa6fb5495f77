"""Images: fetching, packing, validation, and the packed set as training batches."""
