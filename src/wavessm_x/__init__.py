"""WaveSSM-X: image inpainting by wavelets, state-space blocks and Fourier convolutions, guarded by torchmend."""
