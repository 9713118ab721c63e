"""Methods that were made for missing modalities: the baselines of the MLA paper's Table 2."""
