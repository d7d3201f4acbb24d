"""The task list's dates, order and pages, which read only parts of the table."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils.timezone import now

from predictions.admin.task_list import PAGES
from predictions.models import Task
from predictions.templatetags.task_dates import finer

LIST = "/admin/predictions/task/"


@pytest.fixture
def admin() -> Client:
    browser = Client()
    browser.force_login(User.objects.create_superuser("op"))
    return browser


def submitted(*moments: datetime, **fields: Any) -> list[str]:
    rows = [Task(agent="default", model_name="iris", created_at=moment, **fields) for moment in moments]
    return [row.pk for row in Task.objects.bulk_create(rows)]


def found(page: str) -> list[str]:
    """The tasks on a page, as they stand there."""
    return list(dict.fromkeys(re.findall(rf"{LIST}([0-9a-f-]{{36}})/change/", page)))


def links(page: str) -> dict[str, str]:
    """The offered dates: label → link."""
    offered = page[page.index('class="toplinks') :]
    offered = offered[: offered.index("</ul>")]
    told = re.findall(r'href="([^"]*)"[^>]*>\s*(?:<span[^>]*>[^<]*</span>)?\s*([^<]*?)\s*</a>', offered)
    return {title: link.replace("&amp;", "&") for link, title in told}


def test_days_are_offered_where_all_tasks_are_of_one_month(admin: Client) -> None:
    first, last = submitted(datetime(2026, 3, 3, 23, 59, tzinfo=UTC), datetime(2026, 3, 5, tzinfo=UTC))
    days = links(admin.get(LIST).content.decode())
    assert list(days) == ["March 3", "March 4", "March 5"]
    assert found(admin.get(LIST + days["March 3"]).content.decode()) == [first]
    assert found(admin.get(LIST + days["March 4"]).content.decode()) == []
    page = admin.get(LIST + days["March 5"]).content.decode()
    assert found(page) == [last]
    assert list(links(page)) == ["March 2026"]


def test_years_and_months_are_offered_where_there_are_several(admin: Client) -> None:
    december, january, *_ = submitted(
        datetime(2025, 12, 31, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 9, tzinfo=UTC)
    )
    years = links(admin.get(LIST).content.decode())
    assert list(years) == ["2025", "2026"]
    page = admin.get(LIST + years["2025"]).content.decode()
    assert found(page) == [december]
    assert list(links(page)) == ["All dates", "December 31"]
    months = links(admin.get(LIST + years["2026"]).content.decode())
    assert list(months) == ["All dates", "January 2026", "February 2026"]
    assert found(admin.get(LIST + months["January 2026"]).content.decode()) == [january]


def test_a_date_keeps_the_filters_and_an_empty_table_has_none(admin: Client) -> None:
    assert "toplinks" not in admin.get(LIST).content.decode()
    submitted(now() - timedelta(days=400), now())
    years = links(admin.get(LIST, {"status__exact": "pending"}).content.decode())
    assert all("status__exact=pending" in link for link in years.values())


def test_a_year_of_days_is_offered_by_months() -> None:
    assert finer((), date(2026, 1, 30), date(2026, 3, 1)) == [(2026, 1), (2026, 2), (2026, 3)]
    assert finer((2026, 1), date(2026, 1, 30), date(2026, 3, 1)) == [(2026, 1, 30), (2026, 1, 31)]
    assert finer((2024,), date(2026, 1, 30), date(2026, 3, 1)) == []


def test_tasks_are_sorted_by_their_date_alone(admin: Client) -> None:
    older, newer = submitted(now() - timedelta(hours=1), now())
    assert found(admin.get(LIST).content.decode()) == [newer, older]
    assert found(admin.get(LIST, {"o": "6"}).content.decode()) == [older, newer]
    for column in ("1", "2", "-5", "7", "7.3"):
        assert found(admin.get(LIST, {"o": column}).content.decode()) == [newer, older]


@pytest.mark.parametrize(
    "asked",
    [{"model_name": "iris"}, {"model_name": "iris", "status__exact": "failed"}, {"user_id": "ann"}, {"q": "ann"}],
)
def test_filtered_and_found_tasks_keep_the_order(admin: Client, asked: dict[str, str]) -> None:
    submitted(now(), status="failed", user_id="bob")
    Task.objects.update(model_name="fox")
    older, newer = submitted(now() - timedelta(hours=1), now(), status="failed", user_id="ann")
    assert found(admin.get(LIST, asked).content.decode()) == [newer, older]
    assert found(admin.get(LIST, {**asked, "o": "6"}).content.decode()) == [older, newer]
    assert found(admin.get(LIST, {**asked, "o": "-6"}).content.decode()) == [newer, older]


def test_pages_go_on_until_the_dates_have_to_be_used(admin: Client) -> None:
    submitted(*[now()] * (50 * PAGES + 1))
    page = admin.get(LIST, {"p": str(PAGES - 1)}).content.decode()
    assert f'href="?p={PAGES}"' in page
    page = admin.get(LIST, {"p": str(PAGES)}).content.decode()
    assert len(found(page)) == 50
    assert "choose a date or a filter" in page
    assert admin.get(LIST, {"p": str(PAGES + 1)}).status_code == 302
    assert "across all pages" not in page


@pytest.mark.parametrize("asked", [{}, {"status": "pending"}, {"q": "iris"}])
def test_the_list_shows_no_uncounted_total(admin: Client, asked: dict[str, str]) -> None:
    submitted(*[now()] * 60)
    page = admin.get(LIST, asked).content.decode()
    assert len(found(page)) == 50
    assert not re.search(r"\d+ (results?|tasks?|total)\b|Show all", page)
