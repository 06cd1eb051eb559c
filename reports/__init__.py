"""Reports: views (pure functions of records), figures and templates. Nothing of the domain is computed."""
