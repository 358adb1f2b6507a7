"""How a law is fitted and judged: starts, optimiser, certificate, weights of the forms, the fit card."""
