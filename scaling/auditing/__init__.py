"""What an audit reads and recomputes: cells, prose, shapes, book-keeping, trends."""
