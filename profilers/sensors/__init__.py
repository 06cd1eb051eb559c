"""What is read: power, energy, clocks. Vendor units become SI in the sensor that reads them."""
