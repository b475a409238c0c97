"""Bindings: who may bind, what a binding forbids, and workers that bind at the same time."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.core.names import names
from worker.core import chatwoot_event
from worker.core.binding_rules import BindingClaim, BindingResolver, Bindings, inbox_key
from worker.core.chatwoot_event import API_CHANNEL, ChatwootEvent, Destination
from worker.core.stream_entry import Envelope
from worker.errors import BindingConflict, UnusableEntry

BOUND = Bindings({"3/12": "loja", "3/13": "loja", "5/20": "padaria"}, {"loja": 3, "padaria": 5})
NOTHING = Bindings()


def event(
    inbox_id: int = 12,
    *,
    account_id: int | None = 3,
    name: str | None = "loja",
    channel: str | None = API_CHANNEL,
) -> ChatwootEvent:
    """Return a message of an inbox, as the worker decodes it."""
    body: dict[str, Any] = {
        "event": "message_created",
        "id": 1,
        "message_type": "incoming",
        "account": {"id": account_id} if account_id else None,
        "inbox": {"id": inbox_id, "name": name},
        "conversation": {"id": 2, "channel": channel},
    }
    decoded = chatwoot_event.decode_event(json.dumps(body).encode())
    assert decoded is not None
    return decoded


def said(
    *, instance: str | None = None, expect: str | None = None, account_id: int | None = None
) -> Envelope:
    return Envelope(
        payload=b"", order="0" * 33, ms=0, instance=instance, expect=expect, account_id=account_id
    )


def resolve(
    bindings: Bindings,
    what: ChatwootEvent,
    statement: Envelope | None = None,
    *,
    from_inbox_name: bool = True,
) -> Destination | BindingClaim | None:
    return BindingResolver(bindings, from_inbox_name=from_inbox_name).resolve(
        what, statement or said()
    )


def conflict(
    bindings: Bindings, what: ChatwootEvent, statement: Envelope | None = None
) -> BindingConflict:
    with pytest.raises(BindingConflict) as caught:
        resolve(bindings, what, statement)
    assert caught.value.reason == "instance_conflict"
    return caught.value


def no_instance(
    bindings: Bindings,
    what: ChatwootEvent,
    statement: Envelope | None = None,
    *,
    from_inbox_name: bool = True,
) -> str:
    with pytest.raises(UnusableEntry) as caught:
        resolve(bindings, what, statement, from_inbox_name=from_inbox_name)
    assert caught.value.reason == "no_instance"
    return str(caught.value)


class TestBound:
    @pytest.mark.parametrize(
        "statement",
        [
            said(),
            said(instance="loja"),
            said(expect="loja"),
            said(account_id=3),
            said(instance="loja", expect="loja", account_id=3),
        ],
    )
    @pytest.mark.parametrize("from_inbox_name", [True, False])
    def test_an_inbox_is_its_instance_whoever_agrees(
        self, statement: Envelope, *, from_inbox_name: bool
    ) -> None:
        found = resolve(BOUND, event(), statement, from_inbox_name=from_inbox_name)

        assert found == Destination("loja", 3)

    @pytest.mark.parametrize("channel", [API_CHANNEL, "Channel::WebWidget", None])
    @pytest.mark.parametrize("name", ["loja", "another name", "padaria", "", None])
    def test_its_name_and_channel_no_longer_matter(
        self, name: str | None, channel: str | None
    ) -> None:
        assert resolve(BOUND, event(name=name, channel=channel)) == Destination("loja", 3)

    @pytest.mark.parametrize("statement", [said(instance="padaria"), said(expect="padaria")])
    def test_a_second_instance_is_a_conflict(self, statement: Envelope) -> None:
        error = conflict(BOUND, event(), statement)

        assert (error.inbox, error.instance, error.bound) == ("3/12", "padaria", "loja")
        assert error.allow == "padaria"
        assert "'loja'" in str(error)
        assert "'padaria'" in str(error)

    def test_an_expectation_is_checked_even_where_the_producer_agrees(self) -> None:
        error = conflict(BOUND, event(), said(instance="loja", expect="padaria"))

        assert "URL" in str(error)

    @pytest.mark.parametrize("stated", ["LOJA", "loja ", "lo\u0301ja", "loja:"])
    def test_a_name_that_looks_alike_is_another(self, stated: str) -> None:
        assert conflict(BOUND, event(), said(expect=stated)).bound == "loja"

    def test_an_instance_that_the_operator_gave_elsewhere_is_no_longer_theirs(self) -> None:
        """A binding made by name in account 5, before the operator said the instance is in 3."""
        made_by_name = Bindings({"5/9": "loja"}, {"loja": 5})
        bindings = made_by_name.overruled_by(Bindings.of_operator({"3/12": "loja"}))

        assert resolve(bindings, event()) == Destination("loja", 3)
        error = conflict(bindings, event(9, account_id=5))
        assert (error.inbox, error.instance) == ("5/9", "loja")
        assert "account 3" in str(error)


class TestUnbound:
    @pytest.mark.parametrize("bindings", [NOTHING, BOUND])
    def test_an_api_inbox_claims_the_instance_of_its_name(self, bindings: Bindings) -> None:
        claim = resolve(bindings, event(30, name="oficina"))

        assert claim == BindingClaim(3, 30, "oficina", further=False)

    @pytest.mark.parametrize("channel", [API_CHANNEL, "Channel::Whatsapp", None])
    @pytest.mark.parametrize("from_inbox_name", [True, False])
    def test_a_producer_claims_for_any_channel_and_may_add_to_an_instance(
        self, channel: str | None, *, from_inbox_name: bool
    ) -> None:
        claim = resolve(
            BOUND,
            event(30, name="padaria", channel=channel),
            said(instance="loja"),
            from_inbox_name=from_inbox_name,
        )

        assert claim == BindingClaim(3, 30, "loja", further=True)

    @pytest.mark.parametrize(
        "channel", ["Channel::WebWidget", "Channel::Email", "", "channel::api"]
    )
    @pytest.mark.parametrize("statement", [said(), said(expect="loja"), said(account_id=3)])
    def test_another_channel_that_nobody_bound_is_a_strangers(
        self, channel: str, statement: Envelope
    ) -> None:
        assert resolve(NOTHING, event(30, channel=channel), statement) is None
        assert resolve(BOUND, event(30, name="loja", channel=channel), statement) is None

    @pytest.mark.parametrize("name", ["loja", "padaria"])
    def test_a_further_inbox_by_name_alone_is_a_conflict(self, name: str) -> None:
        error = conflict(BOUND, event(30, name=name))

        assert (error.inbox, error.instance) == ("3/30", name)
        assert error.bound in ("3/12", "5/20")

    def test_of_the_same_account_it_could_be_allowed_of_another_under_a_name_of_its_own(
        self,
    ) -> None:
        assert conflict(BOUND, event(30, name="loja")).allow == "loja"
        assert conflict(BOUND, event(30, name="padaria")).allow == "padaria-3"
        longest = Bindings({"5/20": "p" * 255}, {"p" * 255: 5})
        assert conflict(longest, event(30, name="p" * 255)).allow is None

    def test_an_instance_in_a_second_account_is_a_conflict_for_a_producer_too(self) -> None:
        error = conflict(BOUND, event(30), said(instance="padaria"))

        assert (error.inbox, error.instance, error.allow) == ("3/30", "padaria", "padaria")
        assert error.release == ("5/20",)
        assert "account 5" in str(error)

    @pytest.mark.parametrize("instance", [None, "oficina"])
    def test_an_expectation_binds_nothing_and_must_agree(self, instance: str | None) -> None:
        what = event(30, name="oficina")

        agreed = resolve(NOTHING, what, said(instance=instance, expect="oficina"))
        assert isinstance(agreed, BindingClaim)
        assert agreed.instance == "oficina"
        assert conflict(NOTHING, what, said(instance=instance, expect="loja")).instance == "loja"

    def test_an_expectation_alone_is_not_believed(self) -> None:
        no_instance(NOTHING, event(30, name=None), said(expect="loja"))

    def test_names_that_nobody_may_believe_say_nothing(self) -> None:
        assert "3/30" in no_instance(NOTHING, event(30), from_inbox_name=False)
        no_instance(NOTHING, event(30, name=None))
        no_instance(NOTHING, event(30, name=""))
        no_instance(NOTHING, event(30, name="é" * 128))
        no_instance(NOTHING, event(30, channel=None))

    @given(names())
    def test_any_name_of_1_to_255_bytes_can_be_claimed(self, name: str) -> None:
        assert resolve(NOTHING, event(30, name=name)) == BindingClaim(3, 30, name, further=False)


class TestAccount:
    @pytest.mark.parametrize(
        ("stated", "signed", "expected"), [(3, None, 3), (3, 3, 3), (None, 3, 3), (None, None, 3)]
    )
    def test_is_what_the_body_or_the_signature_or_the_only_binding_says(
        self, stated: int | None, signed: int | None, expected: int
    ) -> None:
        found = resolve(BOUND, event(account_id=stated), said(account_id=signed))

        assert found == Destination("loja", expected)

    def test_a_signature_of_another_account_is_a_conflict(self) -> None:
        error = conflict(BOUND, event(account_id=3), said(account_id=5))

        assert error.inbox == "3/12"
        assert error.allow is None

    def test_a_signature_settles_which_of_two_accounts(self) -> None:
        bindings = Bindings({"3/12": "loja", "5/12": "padaria"}, {"loja": 3, "padaria": 5})
        silent = event(account_id=None)

        assert resolve(bindings, silent, said(account_id=5)) == Destination("padaria", 5)
        assert "2 bindings" in no_instance(bindings, silent)

    @pytest.mark.parametrize("statement", [said(), said(instance="loja"), said(expect="loja")])
    def test_none_and_no_binding_is_no_instance(self, statement: Envelope) -> None:
        assert "0 bindings" in no_instance(NOTHING, event(account_id=None), statement)
        assert "0 bindings" in no_instance(BOUND, event(99, account_id=None), statement)

    def test_none_still_meets_the_bindings_prohibitions(self) -> None:
        silent = event(account_id=None)

        assert conflict(BOUND, silent, said(instance="padaria")).inbox == "3/12"
        assert conflict(BOUND, silent, said(expect="padaria")).inbox == "3/12"


class TestOperator:
    def test_outranks_what_stands(self) -> None:
        operator = Bindings.of_operator({"3/12": "oficina", "7/1": "nova"})

        bindings = BOUND.overruled_by(operator)

        assert resolve(bindings, event()) == Destination("oficina", 3)
        assert resolve(bindings, event(13)) == Destination("loja", 3)
        assert resolve(bindings, event(1, account_id=7)) == Destination("nova", 7)
        assert bindings.accounts == {"loja": 3, "padaria": 5, "oficina": 3, "nova": 7}

    def test_may_give_an_instance_several_inboxes(self) -> None:
        bindings = Bindings.of_operator({"3/12": "loja", "3/13": "loja"})

        for inbox_id in (12, 13):
            assert resolve(bindings, event(inbox_id)) == Destination("loja", 3)
        assert conflict(bindings, event(14, name="loja")).allow == "loja"

    def test_changes_nothing_by_saying_nothing(self) -> None:
        assert BOUND.overruled_by(Bindings.of_operator({})) == BOUND

    def test_inboxes_are_written_account_first(self) -> None:
        assert inbox_key(3, 12) == BindingClaim(3, 12, "loja", further=True).inbox == "3/12"


@dataclass(slots=True)
class Table:
    """The bindings that workers share; a claim is one step, as the script makes it."""

    instances: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=dict)
    joined_by_name: set[str] = field(default_factory=set)

    def put(self, operator: Bindings) -> None:
        self.instances.update(operator.instances)
        self.accounts.update(operator.accounts)

    def load(self) -> Bindings:
        return Bindings(dict(self.instances), dict(self.accounts))

    def claim(self, claim: BindingClaim) -> Bindings:
        owner = self.accounts.get(claim.instance)
        may = owner is None or (owner == claim.account_id and claim.further)
        if claim.inbox not in self.instances and may:
            self.instances[claim.inbox] = claim.instance
            self.accounts[claim.instance] = claim.account_id
            if not claim.further:
                self.joined_by_name.add(claim.inbox)
        bound, owner = self.instances.get(claim.inbox), self.accounts.get(claim.instance)
        return Bindings(
            {claim.inbox: bound} if bound else {}, {claim.instance: owner} if owner else {}
        )


@dataclass(slots=True)
class Worker:
    """One worker's copy of the bindings, as old as the test lets it grow."""

    table: Table
    operator: Bindings
    copy: Bindings = NOTHING

    def refresh(self) -> None:
        self.table.put(self.operator)
        self.copy = self.table.load().overruled_by(self.operator)

    def judge(self, what: ChatwootEvent, statement: Envelope) -> Destination | BindingClaim | None:
        try:
            return resolve(self.copy, what, statement)
        except UnusableEntry:
            return None

    def learn(self, granted: Bindings) -> None:
        self.copy = self.copy.overruled_by(granted).overruled_by(self.operator)


INSTANCES = st.sampled_from(["a", "b", "c"])
INBOXES = st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2, 3]))
EVENTS = st.builds(
    lambda inbox, name, channel, *, silent: event(
        inbox[1], account_id=None if silent else inbox[0], name=name, channel=channel
    ),
    INBOXES,
    INSTANCES,
    st.sampled_from([API_CHANNEL, API_CHANNEL, "Channel::WebWidget", None]),
    silent=st.sampled_from([False, False, True]),
)
STATEMENTS = st.builds(
    said,
    instance=st.none() | st.none() | INSTANCES,
    expect=st.none() | st.none() | INSTANCES,
    account_id=st.none() | st.none() | st.sampled_from([1, 2]),
)


def tables() -> st.SearchStrategy[Mapping[str, str]]:
    """Maps of inbox to instance in which no instance has two accounts."""
    pairs = st.dictionaries(INBOXES, INSTANCES, max_size=3)

    def in_one_account(given_pairs: dict[tuple[int, int], str]) -> Mapping[str, str]:
        accounts: dict[str, int] = {}
        return {
            inbox_key(*inbox): name
            for inbox, name in given_pairs.items()
            if accounts.setdefault(name, inbox[0]) == inbox[0]
        }

    return pairs.map(in_one_account)


class TestWorkersTogether:
    """Three workers with copies of any age; their claims reach the table in any order."""

    @given(tables(), tables(), st.data())
    def test_nothing_is_ever_cached_where_it_does_not_belong(
        self, before: Mapping[str, str], stated: Mapping[str, str], data: st.DataObject
    ) -> None:
        operator = Bindings.of_operator(stated)
        table = Table()
        table.put(Bindings.of_operator(before))
        workers = [Worker(table, operator) for _ in range(3)]
        for worker in workers:
            worker.refresh()
        inherited = set(table.instances)
        cached: defaultdict[str, set[Destination]] = defaultdict(set)
        waiting: list[tuple[Worker, ChatwootEvent, Envelope, BindingClaim]] = []

        for _ in range(data.draw(st.integers(1, 12))):
            worker = data.draw(st.sampled_from(workers))
            step = data.draw(st.sampled_from(["event", "event", "event", "claim", "refresh"]))
            if step == "refresh":
                worker.refresh()
            elif step == "claim" and waiting:
                at = data.draw(st.integers(0, len(waiting) - 1))
                worker, what, statement, claim = waiting.pop(at)
                worker.learn(table.claim(claim))
                answer = worker.judge(what, statement)
                assert not isinstance(answer, BindingClaim), "neither granted nor refused"
                note(cached, what, answer)
            else:
                what, statement = data.draw(EVENTS), data.draw(STATEMENTS)
                answer = worker.judge(what, statement)
                if isinstance(answer, BindingClaim):
                    waiting.append((worker, what, statement, answer))
                else:
                    note(cached, what, answer)

        self.check(cached, operator, table, inherited)

    def check(
        self,
        cached: Mapping[str, set[Destination]],
        operator: Bindings,
        table: Table,
        inherited: set[str],
    ) -> None:
        accounts = defaultdict(set)
        inboxes = defaultdict(set)
        for inbox, addresses in cached.items():
            (address,) = addresses
            assert inbox.startswith(f"{address.account_id}/")
            assert operator.instances.get(inbox, address.instance) == address.instance
            assert table.instances[inbox] == address.instance
            accounts[address.instance].add(address.account_id)
            inboxes[address.instance].add(inbox)

        for instance, owners in accounts.items():
            assert owners == {table.accounts[instance]}
            by_name = inboxes[instance] & table.joined_by_name - inherited
            assert len(by_name) <= 1

    @given(st.permutations([("1/1", False), ("1/2", False), ("2/3", False), ("1/3", True)]))
    def test_of_claims_to_one_instance_the_first_by_name_wins(
        self, claims: list[tuple[str, bool]]
    ) -> None:
        table = Table()
        for inbox, further in claims:
            account_id, inbox_id = map(int, inbox.split("/"))
            table.claim(BindingClaim(account_id, inbox_id, "a", further=further))

        assert len(table.joined_by_name) <= 1
        assert len({inbox.partition("/")[0] for inbox in table.instances}) == 1


def note(
    cached: defaultdict[str, set[Destination]], what: ChatwootEvent, answer: Destination | None
) -> None:
    """Remember where an event was cached."""
    if answer is not None:
        account_id = what.account_id or answer.account_id
        cached[inbox_key(account_id, what.inbox_id)].add(answer)
