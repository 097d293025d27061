"""One module for each kind of model: raw outputs become what the model said."""
