"""An order saga across four services: one short file per service, the way a user would write them."""
