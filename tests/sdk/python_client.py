"""Drive a HubSpot-shaped server with the hubspot-api-client package.

Environment
  BASE_URL       e.g. http://127.0.0.1:9101 (needed)
  TOKEN          static access token (needed)
  CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN   all three set: the OAuth refresh is tried as well
  SEARCH_WAIT    seconds to wait for the search index, default 60
  SDK_RETRIES    how often the package repeats a call answered 429, default 4; 0: never
  STRICT         1 (default): the package checks required response fields and enums;
                 0: it reads answers loosely, as it does for its ordinary users
One line is printed for each check. The first failure ends the run with exit code 1.
"""

import os
import sys
import time
import traceback
from contextlib import contextmanager
from datetime import datetime

from hubspot import HubSpot
from hubspot.crm import contacts, deals, properties
from hubspot.crm.associations import v4
from hubspot.crm.contacts.exceptions import ApiException as ContactError
from hubspot.crm.deals.exceptions import ApiException, NotFoundException, UnauthorizedException
from hubspot.crm.properties.exceptions import ApiException as PropertyError
from urllib3.util.retry import Retry

BASE = os.environ.get("BASE_URL", "").rstrip("/")
TOKEN = os.environ.get("TOKEN", "")
SEARCH_WAIT = float(os.environ.get("SEARCH_WAIT", "60"))
STRICT = os.environ.get("STRICT", "1") != "0"
# Pauses of 0, 4, 8, 16 s: together longer than the usual ten-second window.
RETRY = Retry(
    total=int(os.environ.get("SDK_RETRIES", "4")), status_forcelist=(429,), allowed_methods=None,
    backoff_factor=2, raise_on_status=False,
)
if not BASE or not TOKEN:
    sys.exit("set BASE_URL and TOKEN")

RUN = format(int(time.time() * 1000), "x")
# As Tandem's own property is called.
KEY = "tandem_id"
passed = skipped = 0


def connect(token=TOKEN, strict=STRICT):
    # `host` steers the typed calls, `base_url` only api_request(); leaving one out
    # would send that half of the traffic to the vendor's real host.
    return HubSpot(access_token=token, host=BASE, base_url=BASE, retry=RETRY, client_side_validation=strict)


hub = connect()
# Entries of a 207's `errors` seldom carry every field the package calls required.
loose = connect(strict=False)


class Skip(Exception):
    pass


@contextmanager
def check(label):
    global passed, skipped
    try:
        yield
    except Skip as why:
        skipped += 1
        print(f"skip  {label}: {why}", flush=True)
    except BaseException as exc:
        print(f"FAIL  {label}: {type(exc).__name__}: {exc}", flush=True)
        traceback.print_exc()
        print(f"{passed} passed, 1 failed, {skipped} skipped", flush=True)
        sys.exit(1)
    else:
        passed += 1
        print(f"ok    {label}", flush=True)


def same(got, want, what="value"):
    assert got == want, f"{what}: got {got!r}, want {want!r}"


def has(part, whole, what="value"):
    assert part in whole, f"{what}: {part!r} is not in {whole!r}"


def refused(call, *codes):
    """Run a call that must be turned down; hand back the exception."""
    try:
        call()
    except Exception as exc:
        status = getattr(exc, "status", None)
        assert status in codes, f"refused with {type(exc).__name__} {status}, want {codes}: {exc}"
        return exc
    raise AssertionError(f"the call went through, want one of {codes}")


def poll(probe, limit=10.0, pause=0.3):
    """Repeat probe() until it gives something true; its last answer is returned."""
    end = time.monotonic() + limit
    while True:
        got = probe()
        if got or time.monotonic() > end:
            return got
        time.sleep(pause)


def settle(call, limit=10.0):
    """Repeat a write while the server still says that a fresh property does not exist."""
    end = time.monotonic() + limit
    while True:
        try:
            return call()
        except (ApiException, ContactError) as exc:
            new_property = exc.status == 400 and "PROPERTY_DOESNT_EXIST" in str(exc.body)
            if not new_property or time.monotonic() > end:
                raise
            time.sleep(0.25)


def sane(record):
    assert isinstance(record.id, str) and record.id, f"bad id {record.id!r}"
    assert isinstance(record.properties, dict), "properties is not a map"
    for when in (record.created_at, record.updated_at):
        assert isinstance(when, datetime) and when.tzinfo, f"bad time {when!r}"
    return record


def done(batch):
    same(batch.status, "COMPLETE", "batch status")
    assert batch.started_at and batch.completed_at, "batch has no times"
    return batch.results


def key(name):
    return f"py-{RUN}-{name}"


def mail(name):
    return f"py-{RUN}-{name}@sdk.example"


# --- access ------------------------------------------------------------------

with check("auth: an unknown token is a 401"):
    exc = refused(lambda: connect(token="not-a-token").crm.deals.basic_api.get_page(limit=1), 401)
    assert isinstance(exc, UnauthorizedException), type(exc)

with check("raw request: account details"):
    reply = hub.api_request({"path": "/account-info/v3/details"})
    if reply.status_code == 404:
        raise Skip("not served under /account-info/v3")
    same(reply.status_code, 200, "status")
    assert reply.json().get("portalId"), "no portalId"

# --- pipelines, owners, properties -------------------------------------------

with check("pipelines: get_all and get_by_id"):
    found = hub.crm.pipelines.pipelines_api.get_all("deals").results
    assert found, "no pipeline"
    pipe = sorted(found, key=lambda p: p.display_order)[0]
    stages = sorted(pipe.stages, key=lambda s: s.display_order)
    for s in stages:
        has(s.metadata.get("isClosed"), ("true", "false"), "isClosed of " + s.id)
    still_open = [s.id for s in stages if s.metadata["isClosed"] == "false"]
    assert len(still_open) >= 2, "this script needs two open stages"
    stage_a, stage_b = still_open[:2]
    same(hub.crm.pipelines.pipelines_api.get_by_id("deals", pipe.id).id, pipe.id, "id")
    rows = hub.crm.pipelines.pipeline_stages_api.get_all("deals", pipe.id).results
    same({s.id for s in rows}, {s.id for s in stages}, "stages")

with check("owners: get_page, by e-mail, by id"):
    page = hub.crm.owners.owners_api.get_page(limit=5)
    if not page.results:
        raise Skip("the account has no owner")
    owner = page.results[0]
    same(hub.crm.owners.owners_api.get_by_id(int(owner.id)).id, owner.id, "owner id")
    if owner.email:
        again = hub.crm.owners.owners_api.get_page(email=owner.email).results
        has(owner.id, [o.id for o in again], "owner ids")

with check("properties: get_all"):
    has("dealname", [p.name for p in hub.crm.properties.core_api.get_all("deals").results], "names")
    has("email", [p.name for p in hub.crm.properties.core_api.get_all("contacts").results], "names")

for kind, group in (("deals", "dealinformation"), ("contacts", "contactinformation")):
    with check(f"properties: create unique {KEY} on {kind}, get_by_name, second create refused"):
        wanted = properties.PropertyCreate(
            name=KEY, label="SDK key", type="string", field_type="text", group_name=group, has_unique_value=True
        )
        try:
            same(hub.crm.properties.core_api.create(kind, wanted).name, KEY, "name")
        except PropertyError as exc:
            if exc.status != 409:
                raise
        seen = poll(lambda: KEY in [p.name for p in hub.crm.properties.core_api.get_all(kind).results])
        assert seen, "the new property is not listed"
        same(hub.crm.properties.core_api.get_by_name(kind, KEY).has_unique_value, True, "has_unique_value")
        refused(lambda: hub.crm.properties.core_api.create(kind, wanted), 409)
        refused(lambda: hub.crm.properties.core_api.get_by_name(kind, "no_such_property"), 404)

# --- contacts ----------------------------------------------------------------

cb, cbatch = hub.crm.contacts.basic_api, hub.crm.contacts.batch_api
db, dbatch = hub.crm.deals.basic_api, hub.crm.deals.batch_api
people = {}

with check("contacts: create"):
    body = contacts.SimplePublicObjectInputForCreate(
        properties={"email": mail("a"), "firstname": "Ada", "lastname": "Quill", KEY: key("ca")}
    )
    made = sane(settle(lambda: cb.create(body)))
    same(made.properties["email"], mail("a"), "email")
    same(made.archived, False, "archived")
    people["a"] = made.id

with check("contacts: a second record with the same e-mail is a 409"):
    refused(lambda: cb.create(body), 409)

with check("contacts: batch create"):
    rows = done(cbatch.create(contacts.BatchInputSimplePublicObjectBatchInputForCreate(inputs=[
        contacts.SimplePublicObjectBatchInputForCreate(
            properties={"email": mail(n), "firstname": n.upper(), "lastname": "Batch", KEY: key("c" + n)}
        ) for n in ("b", "c", "d")
    ])))
    same(len(rows), 3, "rows")
    for r in map(sane, rows):
        people[r.properties["email"].split("-")[-1].split("@")[0]] = r.id
    same(sorted(people), ["a", "b", "c", "d"], "people")

with check("contacts: get_by_id with chosen properties"):
    got = sane(cb.get_by_id(people["a"], properties=["firstname", "lastname", KEY]))
    same((got.properties["firstname"], got.properties["lastname"], got.properties[KEY]), ("Ada", "Quill", key("ca")))

with check("contacts: get_by_id through id_property"):
    same(cb.get_by_id(mail("a"), id_property="email").id, people["a"], "id by e-mail")
    same(cb.get_by_id(key("cb"), id_property=KEY).id, people["b"], "id by key")

with check("contacts: update by id and through id_property"):
    change = contacts.SimplePublicObjectInput(properties={"lastname": "Reed"})
    same(sane(cb.update(people["a"], change)).id, people["a"], "id")
    change = contacts.SimplePublicObjectInput(properties={"lastname": "Moss"})
    same(cb.update(key("cb"), change, id_property=KEY).id, people["b"], "id")
    same(cb.get_by_id(people["a"], properties=["lastname"]).properties["lastname"], "Reed", "lastname")
    same(cb.get_by_id(people["b"], properties=["lastname"]).properties["lastname"], "Moss", "lastname")

with check("contacts: properties_with_history, newest first"):
    past = cb.get_by_id(people["a"], properties_with_history=["lastname"]).properties_with_history["lastname"]
    same([v.value for v in past[:2]], ["Reed", "Quill"], "history")
    assert all(isinstance(v.timestamp, datetime) and v.source_type for v in past), "history entry lacks time or source"

with check("contacts: batch read by id and by id_property"):
    rows = done(cbatch.read(contacts.BatchReadInputSimplePublicObjectId(
        properties=["email"], properties_with_history=[], inputs=[{"id": people["c"]}, {"id": people["d"]}]
    )))
    same({r.id for r in rows}, {people["c"], people["d"]}, "ids")
    rows = done(cbatch.read(contacts.BatchReadInputSimplePublicObjectId(
        id_property="email", properties=["email"], properties_with_history=[], inputs=[{"id": mail("c")}]
    )))
    same([r.id for r in rows], [people["c"]], "ids")

with check("contacts: batch update and batch upsert"):
    rows = done(cbatch.update(contacts.BatchInputSimplePublicObjectBatchInput(inputs=[
        contacts.SimplePublicObjectBatchInput(id=people["c"], properties={"firstname": "Cleo"})
    ])))
    same([r.id for r in rows], [people["c"]], "ids")
    rows = done(cbatch.upsert(contacts.BatchInputSimplePublicObjectBatchInputUpsert(inputs=[
        contacts.SimplePublicObjectBatchInputUpsert(
            id=key("cd"), id_property=KEY, properties={KEY: key("cd"), "firstname": "Dora"}
        ),
        contacts.SimplePublicObjectBatchInputUpsert(
            id=key("ce"), id_property=KEY, properties={KEY: key("ce"), "email": mail("e"), "firstname": "Eve"}
        ),
    ])))
    same({r.id == people["d"]: r.new for r in rows}, {True: False, False: True}, "new flags")
    people["e"] = next(r.id for r in rows if r.new)

# --- deals -------------------------------------------------------------------

sales = {}


def deal(name, **more):
    return {"dealname": f"{name} {RUN}", "pipeline": pipe.id, "dealstage": stage_a, **more}


with check("deals: create with an association"):
    made = sane(settle(lambda: db.create(deals.SimplePublicObjectInputForCreate(
        properties=deal("Pier", amount="120.50", **{KEY: key("da")}),
        associations=[deals.PublicAssociationsForObject(
            to=deals.PublicObjectId(id=people["a"]),
            types=[deals.AssociationSpec(association_category="HUBSPOT_DEFINED", association_type_id=3)],
        )],
    ))))
    sales["a"] = made.id

with check("deals: get_by_id with properties, history and associations"):
    got = sane(db.get_by_id(
        sales["a"], properties=["dealname", "amount", "no_such_property"],
        properties_with_history=["dealstage"], associations=["contacts"],
    ))
    same(float(got.properties["amount"]), 120.5, "amount")
    same(got.properties.get("no_such_property"), None, "unknown property")
    same(got.properties_with_history["dealstage"][0].value, stage_a, "stage")
    has(people["a"], [x.id for x in got.associations["contacts"].results], "associated ids")
    assert all(x.type for x in got.associations["contacts"].results), "an association without a type"

with check("deals: get_by_id through id_property, unknown key is a 404"):
    same(db.get_by_id(key("da"), id_property=KEY).id, sales["a"], "id")
    exc = refused(lambda: db.get_by_id(key("nobody"), id_property=KEY), 404)
    assert isinstance(exc, NotFoundException), type(exc)

with check("deals: a taken unique value is refused"):
    refused(lambda: db.create(deals.SimplePublicObjectInputForCreate(properties=deal("Twin", **{KEY: key("da")}))), 400, 409)

with check("deals: update by id and through id_property, empty string clears"):
    db.update(sales["a"], deals.SimplePublicObjectInput(properties={"dealstage": stage_b}))
    db.update(key("da"), deals.SimplePublicObjectInput(properties={"amount": ""}), id_property=KEY)
    got = db.get_by_id(sales["a"], properties=["dealstage", "amount"]).properties
    same(got["dealstage"], stage_b, "stage")
    assert not got.get("amount"), f"amount is still {got.get('amount')!r}"

with check("deals: batch create"):
    rows = done(dbatch.create(deals.BatchInputSimplePublicObjectBatchInputForCreate(inputs=[
        deals.SimplePublicObjectBatchInputForCreate(properties=deal("Lot " + n, **{KEY: key("d" + n)}))
        for n in ("b", "c", "d")
    ])))
    for r in map(sane, rows):
        sales[r.properties[KEY].rsplit("-d", 1)[1]] = r.id
    same(sorted(sales), ["a", "b", "c", "d"], "deals")

with check("deals: batch create with trace ids, one bad row, is a 207 with both outcomes"):
    got, status, _ = loose.crm.deals.batch_api.create_with_http_info(
        deals.BatchInputSimplePublicObjectBatchInputForCreate(inputs=[
            deals.SimplePublicObjectBatchInputForCreate(object_write_trace_id="t-good", properties=deal("Good")),
            deals.SimplePublicObjectBatchInputForCreate(
                object_write_trace_id="t-bad", properties=deal("Bad", no_such_property="x")
            ),
        ])
    )
    same(status, 207, "status")
    same([r.object_write_trace_id for r in got.results], ["t-good"], "traces")
    same(got.num_errors, 1, "num_errors")
    same(got.errors[0].context["objectWriteTraceId"], ["t-bad"], "trace of the error")
    sales["good"] = got.results[0].id

with check("deals: batch read by id_property, with history"):
    rows = done(dbatch.read(deals.BatchReadInputSimplePublicObjectId(
        id_property=KEY, properties=["dealname", KEY], properties_with_history=["dealstage"],
        inputs=[{"id": key("da")}, {"id": key("db")}],
    )))
    same({r.properties[KEY]: r.id for r in rows}, {key("da"): sales["a"], key("db"): sales["b"]}, "ids by key")
    first = next(r for r in rows if r.id == sales["a"])
    same([v.value for v in first.properties_with_history["dealstage"][:2]], [stage_b, stage_a], "history")

with check("deals: batch read with a missing id is a 207 that names it"):
    got, status, _ = loose.crm.deals.batch_api.read_with_http_info(deals.BatchReadInputSimplePublicObjectId(
        id_property=KEY, properties=[KEY], properties_with_history=[], inputs=[{"id": key("da")}, {"id": key("nobody")}]
    ))
    same(status, 207, "status")
    same([r.id for r in got.results], [sales["a"]], "ids")
    same(got.num_errors, 1, "num_errors")
    same((got.errors[0].category, got.errors[0].context["ids"]), ("OBJECT_NOT_FOUND", [key("nobody")]), "error")

with check("deals: batch update"):
    for row in (
        deals.SimplePublicObjectBatchInput(id=sales["b"], properties={"amount": "7"}),
        deals.SimplePublicObjectBatchInput(id=key("dc"), id_property=KEY, properties={"amount": "8"}),
    ):
        rows = done(dbatch.update(deals.BatchInputSimplePublicObjectBatchInput(inputs=[row])))
        has(rows[0].id, (sales["b"], sales["c"]), "id")
    same(float(db.get_by_id(sales["c"], properties=["amount"]).properties["amount"]), 8.0, "amount")

with check("deals: batch upsert, then the same again makes nothing new"):
    ask = deals.BatchInputSimplePublicObjectBatchInputUpsert(inputs=[
        deals.SimplePublicObjectBatchInputUpsert(
            id=key("d" + n), id_property=KEY, object_write_trace_id="u-" + n,
            properties=deal("Up " + n, **{KEY: key("d" + n)}),
        ) for n in ("b", "e")
    ])
    rows = done(dbatch.upsert(ask))
    same({r.object_write_trace_id: r.new for r in rows}, {"u-b": False, "u-e": True}, "new flags")
    sales["e"] = next(r.id for r in rows if r.new)
    same({r.new for r in done(dbatch.upsert(ask))}, {False}, "new flags of the repeat")

# --- associations ------------------------------------------------------------

ab, abatch = hub.crm.associations.v4.basic_api, hub.crm.associations.v4.batch_api


def linked(deal_id):
    return {str(x.to_object_id) for x in ab.get_page("deals", deal_id, "contacts").results}


with check("associations v4: labels"):
    rows = hub.crm.associations.v4.schema.definitions_api.get_all("deals", "contacts").results
    has(("HUBSPOT_DEFINED", 3), [(x.category, x.type_id) for x in rows], "definitions")

with check("associations v4: create_default and get_page"):
    done(ab.create_default("deals", sales["b"], "contacts", people["b"]))
    same(linked(sales["b"]), {people["b"]}, "linked")

with check("associations v4: create with a type, then archive the pair"):
    spec = [v4.AssociationSpec(association_category="HUBSPOT_DEFINED", association_type_id=3)]
    pair = ab.create("deals", sales["c"], "contacts", people["c"], spec)
    same((str(pair.from_object_id), str(pair.to_object_id)), (sales["c"], people["c"]), "pair")
    ab.archive("deals", sales["c"], "contacts", people["c"])
    same(linked(sales["c"]), set(), "linked")

with check("associations v4: batch create and batch create_default"):
    rows = done(abatch.create("deals", "contacts", v4.BatchInputPublicAssociationMultiPost(inputs=[
        v4.PublicAssociationMultiPost(
            _from=v4.PublicObjectId(id=sales["c"]), to=v4.PublicObjectId(id=people["c"]), types=spec
        )
    ])))
    assert rows, "batch create gave no row"
    rows = done(abatch.create_default("deals", "contacts", v4.BatchInputPublicDefaultAssociationMultiPost(inputs=[
        v4.PublicDefaultAssociationMultiPost(
            _from=v4.PublicObjectId(id=sales[d]), to=v4.PublicObjectId(id=people[c])
        ) for d, c in (("c", "d"), ("d", "d"))
    ])))
    has((sales["d"], people["d"]), [(x._from.id, x.to.id) for x in rows], "links")

with check("associations v4: batch read"):
    rows = done(abatch.get_page("deals", "contacts", v4.BatchInputPublicFetchAssociationsBatchRequest(inputs=[
        v4.PublicFetchAssociationsBatchRequest(id=sales[n]) for n in ("b", "c", "d")
    ])))
    seen = {x._from.id: {str(t.to_object_id) for t in x.to} for x in rows}
    same(seen, {sales["b"]: {people["b"]}, sales["c"]: {people["c"], people["d"]}, sales["d"]: {people["d"]}}, "links")
    assert all(t.association_types for x in rows for t in x.to), "a link without a type"

with check("associations v4: batch archive, then batch read finds nothing"):
    abatch.archive("deals", "contacts", v4.BatchInputPublicAssociationMultiArchive(inputs=[
        v4.PublicAssociationMultiArchive(_from=v4.PublicObjectId(id=sales["d"]), to=[v4.PublicObjectId(id=people["d"])])
    ]))
    got, status, _ = loose.crm.associations.v4.batch_api.get_page_with_http_info(
        "deals", "contacts", v4.BatchInputPublicFetchAssociationsBatchRequest(inputs=[{"id": sales["d"]}])
    )
    has(status, (200, 207), "status")
    same([t for x in got.results or [] for t in x.to], [], "links left")

# --- lists -------------------------------------------------------------------

with check("deals: get_page walks every record once"):
    seen, after = [], None
    while True:
        size = 3 if len(seen) < 6 else 100
        page = db.get_page(limit=size, after=after, properties=["dealname", KEY], associations=["contacts"])
        seen += page.results
        if not page.paging or not page.paging.next:
            break
        after = page.paging.next.after
        assert page.results, "an empty page with a next cursor"
    ids = [r.id for r in seen]
    same(len(ids), len(set(ids)), "ids without repeats")
    assert set(sales.values()) <= set(ids), "a new deal is not listed"
    mine = next(r for r in seen if r.id == sales["a"])
    has(people["a"], [x.id for x in mine.associations["contacts"].results], "associated ids")

with check("contacts: get_all helper"):
    ids = {r.id for r in hub.crm.contacts.get_all(properties=["email"])}
    assert set(people.values()) <= ids, "a new contact is not listed"

# --- search ------------------------------------------------------------------

with check("deals: search, waiting for the index"):
    values = sorted(key("d" + n) for n in "abcde")
    ask = deals.PublicObjectSearchRequest(
        filter_groups=[{"filters": [{"propertyName": KEY, "operator": "IN", "values": values}]}],
        sorts=[{"propertyName": "hs_object_id", "direction": "ASCENDING"}],
        properties=["dealname", KEY], limit=3, after="0",
    )

    def all_there():
        got = hub.crm.deals.search_api.do_search(ask)
        return got if got.total == len(values) else None

    page = poll(all_there, SEARCH_WAIT, 1.0)
    assert page, f"the index did not catch up in {SEARCH_WAIT} s"
    same(len(page.results), 3, "rows of page one")
    ask.after = page.paging.next.after
    rest = hub.crm.deals.search_api.do_search(ask)
    ids = [r.id for r in map(sane, page.results + rest.results)]
    same(ids, sorted((sales[n] for n in "abcde"), key=int), "ids in order")
    assert not rest.paging or not rest.paging.next, "a cursor after the last page"

with check("contacts: search by e-mail, waiting for the index"):
    ask = contacts.PublicObjectSearchRequest(
        filter_groups=[{"filters": [{"propertyName": "email", "operator": "EQ", "value": mail("a")}]}],
        properties=["email"], limit=5,
    )
    rows = poll(lambda: hub.crm.contacts.search_api.do_search(ask).results, SEARCH_WAIT, 1.0)
    same([r.id for r in rows], [people["a"]], "ids")

# --- merge -------------------------------------------------------------------


def merge(api, models, primary, other):
    kept = sane(api.merge(models.PublicMergeInput(primary_object_id=primary, object_id_to_merge=other)))
    for old in (primary, other):
        same(api.get_by_id(old).id, kept.id, f"where {old} leads")
    absorbed = api.get_by_id(kept.id, properties=["hs_merged_object_ids"]).properties["hs_merged_object_ids"]
    has(other, (absorbed or "").split(";"), "merged ids")
    return kept.id


with check("deals: merge"):
    two = [db.create(deals.SimplePublicObjectInputForCreate(properties=deal(n))).id for n in ("Left", "Right")]
    sales["merged"] = merge(db, deals, *two)

with check("contacts: merge"):
    two = [cb.create(contacts.SimplePublicObjectInputForCreate(
        properties={"email": mail(n), "firstname": n})).id for n in ("left", "right")]
    people["merged"] = merge(cb, contacts, *two)

# --- archive -----------------------------------------------------------------


def listed_archived(api, wanted):
    left, after = set(wanted), None
    while left:
        page = api.get_page(limit=100, archived=True, after=after)
        for r in page.results:
            if r.id in left:
                assert r.archived is True and isinstance(r.archived_at, datetime), f"{r.id} lacks its archive marks"
                left.discard(r.id)
        if not page.paging or not page.paging.next:
            break
        after = page.paging.next.after
    assert not left, f"not in the archived list: {sorted(left)}"


with check("deals: archive one"):
    db.archive(sales["a"])
    refused(lambda: db.get_by_id(sales["a"]), 404)
    got = db.get_by_id(sales["a"], archived=True)
    assert got.archived and got.archived_at, "no archive marks"

with check("deals: batch archive, archived list, archived batch read"):
    rest = [i for n, i in sales.items() if n != "a"]
    dbatch.archive(deals.BatchInputSimplePublicObjectId(inputs=[deals.SimplePublicObjectId(id=i) for i in rest]))
    listed_archived(db, sales.values())
    rows = done(dbatch.read(
        deals.BatchReadInputSimplePublicObjectId(properties=["dealname"], properties_with_history=[], inputs=[{"id": sales["b"]}]),
        archived=True,
    ))
    same([(r.id, r.archived) for r in rows], [(sales["b"], True)], "rows")

with check("contacts: archive one, batch archive the rest, archived list"):
    cb.archive(people["a"])
    refused(lambda: cb.get_by_id(people["a"]), 404)
    rest = [i for n, i in people.items() if n != "a"]
    cbatch.archive(contacts.BatchInputSimplePublicObjectId(inputs=[{"id": i} for i in rest]))
    listed_archived(cb, people.values())

# --- OAuth -------------------------------------------------------------------

app = [os.environ.get(n) for n in ("CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN")]

with check("oauth: refresh, the new token works"):
    if not all(app):
        raise Skip("CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN are not all set")
    fresh = hub.oauth.tokens_api.create(
        grant_type="refresh_token", client_id=app[0], client_secret=app[1], refresh_token=app[2]
    )
    assert fresh.access_token and fresh.refresh_token and fresh.expires_in > 0, "half a token"
    same(fresh.token_type.lower(), "bearer", "token type")
    connect(token=fresh.access_token).crm.deals.basic_api.get_page(limit=1)

with check("oauth: a wrong refresh token is a 400"):
    if not all(app):
        raise Skip("CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN are not all set")
    refused(lambda: hub.oauth.tokens_api.create(
        grant_type="refresh_token", client_id=app[0], client_secret=app[1], refresh_token="wrong"), 400)

with check("oauth: token details (v1 paths)"):
    if not all(app):
        raise Skip("CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN are not all set")
    try:
        info = hub.oauth.access_tokens_api.get(fresh.access_token)
        info_r = hub.oauth.refresh_tokens_api.get(app[2])
    except Exception as exc:
        if getattr(exc, "status", None) == 404:
            raise Skip("the v1 token-information paths are not served")
        raise
    same(info.token, fresh.access_token, "token")
    assert info.hub_id and info.scopes and info_r.hub_id == info.hub_id, "token details"

print(f"{passed} passed, 0 failed, {skipped} skipped")
