"""Two runs beside each other, item by item, whoever made them."""
