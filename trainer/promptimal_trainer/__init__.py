"""Build the data set and fine-tune the rewriter. Heavy: torch and transformers are imported by the stages that need them."""
