"""The fault simulator: many services, their stores and a broker in virtual time, driven by the product's own pipeline."""
