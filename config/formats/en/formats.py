"""How the admin writes moments: to the second, in the order that sorts."""

DATETIME_FORMAT = "Y-m-d H:i:s"
DATE_FORMAT = "Y-m-d"
