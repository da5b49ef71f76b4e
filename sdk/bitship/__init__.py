"""bitship: ship the same bits to every device."""
