"""reports/views."""
