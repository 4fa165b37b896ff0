"""The network: wavelets, state-space blocks and Fourier convolutions."""
