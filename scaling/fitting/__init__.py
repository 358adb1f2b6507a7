"""Fitting a law and judging it: starts, optimiser, certificate, weights of the forms, the fit card."""
