"""One file for each verb of ccexecctl."""
