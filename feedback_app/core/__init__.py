"""The pure core: plain values and functions. No IO, no Faust, no clock of its own."""
