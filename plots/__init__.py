"""What a person looks at: figures, the report, the study card. Matplotlib lives here; needs scaling, never train."""
