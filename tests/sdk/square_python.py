"""Drives a Square-shaped server with the official PyPI package `squareup`, unchanged.

BASE_URL, TOKEN: where and with what. One line is printed for each check; the first failure ends the run.
"""

import os
import time

from square import Square
from square.core.api_error import ApiError

client = Square(token=os.environ["TOKEN"], base_url=os.environ["BASE_URL"])
run = format(time.time_ns(), "x")


def ok(name: str) -> None:
    print(f"ok   squareup: {name}", flush=True)


locations = client.locations.list().locations
assert len(locations) == 2, locations
ok("locations")

customer = client.customers.create(idempotency_key=run, given_name="Ben", email_address=f"ben.{run}@example.com").customer
assert client.customers.get(customer_id=customer.id).customer.given_name == "Ben"
bulk = client.customers.bulk_retrieve_customers(customer_ids=[customer.id, "nobody"]).responses
assert bulk[customer.id].customer.id == customer.id and bulk["nobody"].errors[0].code == "NOT_FOUND"
ok("a customer, alone and in bulk")

line = {"name": "Serum", "quantity": "2", "base_price_money": {"amount": 4500, "currency": "USD"}}
order = client.orders.create(idempotency_key=f"o{run}", order={"location_id": locations[0].id, "line_items": [line]}).order
assert order.total_money.amount == 9000
payment = client.payments.create(
    idempotency_key=f"p{run}", source_id="CASH", order_id=order.id, amount_money={"amount": 9000, "currency": "USD"}
).payment
assert payment.status == "COMPLETED", payment
assert client.orders.get(order_id=order.id).order.net_amount_due_money.amount == 0
ok("an order and its payment")

time.sleep(3.5)
assert any(one.id == payment.id for one in client.payments.list(location_id=locations[0].id))
ok("payments in a list")

try:
    client.customers.create(idempotency_key=f"x{run}")
except ApiError as error:
    assert error.status_code == 400, error
else:
    raise AssertionError("a customer of nothing was made")
ok("a refusal is an error of theirs")
