"""Recurrent models: RNN, GRU and LSTM folders, and torch modules with states."""
