"""Where advrad meets other libraries, one folder each."""
