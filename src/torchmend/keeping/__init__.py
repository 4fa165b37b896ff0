"""Files that outlive crashes: drafts and copies, health stamps, versions of one checkpoint, quarantine."""
