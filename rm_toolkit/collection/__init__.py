"""Domain-specific responses from a language model: instructions x domains -> the DSP format."""
