"""L05: supervised fine-tuning data: labels, templates, padding, packing, cleaning, splitting."""
