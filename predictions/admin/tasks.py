"""Tasks in the Django admin: read-only pages with actions to cancel, run again and try."""

import json
import shlex
from itertools import islice
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import Form
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from predictions import submission
from predictions.admin.formatting import SHOWN_CHARACTERS, file_link, json_block, urls_in
from predictions.admin.task_list import ExactFilter, NewestPaginator, PlatformFilter, StatusFilter, TaskList, search
from predictions.models import UNFINISHED, Task
from predictions.queue.queue import QueueFull
from predictions.recorder import RecordError, RecordUnavailable
from predictions.redis.errors import QueueUnavailable

SHOWN_FILES = 20
SHORT_ID = 18
"""The first 13 characters of an id are its time; 18 tell tasks of the same millisecond apart."""
LOOKUPS = frozenset({"", "exact", "gte", "lt", "year", "month", "day"})

BADGES = {
    Task.Status.PENDING: "info",
    Task.Status.RUNNING: "primary",
    Task.Status.SUCCEEDED: "success",
    Task.Status.FAILED: "danger",
    Task.Status.CANCELED: "warning",
}

CANCEL_DIALOG = {
    "title": "Cancel this task?",
    "description": "A waiting task is taken out of the queue; a running prediction is ended. This cannot be undone.",
    "form_submit_text": "Cancel the task",
}

RUN_AGAIN_DIALOG = {
    "title": "Run this again?",
    "description": "A new task with the same model and inputs is queued. On a paid platform it costs again.",
    "form_submit_text": "Run it again",
}


@admin.register(Task)
class TaskAdmin(ModelAdmin):
    """Shows tasks read-only: the pages offer no add, edit or delete."""

    list_display = ["short_id", "status_badge", "model_text", "platform", "user_id", "created_at", "run_time"]
    list_filter = [
        ("status", StatusFilter),
        ("model_name", ExactFilter),
        ("platform", PlatformFilter),
        ("user_id", ExactFilter),
        "created_at",
    ]
    date_hierarchy = "created_at"
    list_filter_submit = True
    list_filter_sheet = False
    list_per_page = 50
    list_disable_select_all = True
    search_fields = ["id"]  # shows the search box; task_list.search searches
    search_help_text = "The beginning of a task's id; or a user, a model or a request id, whole."
    ordering = ["-created_at"]
    sortable_by = ["created_at"]
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = NewestPaginator
    actions = ["cancel_selected"]
    actions_detail = ["cancel_task", "run_again", "try_it"]
    fieldsets = [
        ("Task", {"fields": ["id", "status_now", "model_text", "platform", "user_id", "error_info"]}),
        ("Inputs and outputs", {"fields": ["inputs_text", "outputs_text", "files", "as_curl"]}),
        (
            "Timeline",
            {
                "fields": [
                    "created_at",
                    "started_at",
                    "ended_at",
                    "queue_time",
                    "run_time",
                    "attempt",
                    "queue_num",
                    "job",
                    "request_id",
                    "upstream_id",
                    "upstream_cancel",
                    "agent",
                    "unreported",
                ]
            },
        ),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task]:
        tasks: QuerySet[Task] = super().get_queryset(request)
        match = request.resolver_match
        is_list = match is not None and match.url_name == "predictions_task_changelist"
        return tasks.defer("inputs", "outputs") if is_list else tasks

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Task], search_term: str
    ) -> tuple[QuerySet[Task], bool]:
        term = search_term.strip()
        return (search(queryset, term) if term else queryset), False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TaskList]:
        return TaskList

    # --- permissions

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        return False

    def has_cancel_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return bool(request.user.has_perm("predictions.cancel_task"))

    def has_run_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return bool(request.user.has_perm("predictions.run_task"))

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Allows the lookups that the filters use. Django would pass any other lookup in the URL to the database."""
        return lookup.partition("__")[2] in LOOKUPS and bool(super().lookup_allowed(lookup, value, request))

    # --- fields

    @display(description="Task")
    def short_id(self, task: Task) -> str:
        return task.pk[:SHORT_ID]

    @display(description="Status", label=BADGES)
    def status_badge(self, task: Task) -> tuple[str, str]:
        return task.status, task.get_status_display()

    @display(description="Status")
    def status_now(self, task: Task) -> SafeString:
        badge = {"type": BADGES[Task.Status(task.status)], "text": task.get_status_display()}
        return render_to_string("unfold/helpers/label.html", badge)

    @display(description="Model")
    def model_text(self, task: Task) -> str:
        return f"{task.model_name} {task.model_version}".strip()

    @display(description="Run time")
    def run_time(self, task: Task) -> str:
        return "" if task.running_time is None else f"{task.running_time:.3f} s"

    @display(description="Queue time")
    def queue_time(self, task: Task) -> str:
        return "" if task.started_at is None else f"{(task.started_at - task.created_at).total_seconds():.3f} s"

    @display(description="Inputs")
    def inputs_text(self, task: Task) -> SafeString:
        return json_block(task.inputs)

    @display(description="Outputs")
    def outputs_text(self, task: Task) -> SafeString:
        return json_block(task.outputs)

    @display(description="Files")
    def files(self, task: Task) -> SafeString:
        """The pictures and links among the outputs."""
        return format_html_join("", "{}", ((file_link(url),) for url in islice(urls_in(task.outputs), SHOWN_FILES)))

    @display(description="Job")
    def job(self, task: Task) -> SafeString | str:
        if task.queue_id != task.pk or task.agent != settings.TASK_TYPE_NAME:  # a record client wrote this id
            return task.queue_id
        index = sorted(settings.RQ_QUEUES).index(settings.TASK_TYPE_NAME)
        url = reverse("admin:django_rq_job_detail", args=[index, task.queue_id])
        return format_html('<a href="{}" class="text-primary-600 underline">{}</a>', url, task.queue_id)

    @display(description="As curl")
    def as_curl(self, task: Task) -> SafeString:
        """The request as a curl command to copy, with a placeholder for the API key."""
        body = {"model_name": task.model_name, "model_version": task.model_version, "inputs": task.inputs or {}}
        text = json.dumps({name: value for name, value in body.items() if value != ""})
        if len(text) > SHOWN_CHARACTERS:
            return SafeString("")
        return format_html(
            '<pre class="whitespace-pre-wrap break-words text-xs max-h-48 overflow-auto select-all">'
            "curl {}/async/v1/predict -H 'apikey: YOUR-KEY' -H 'Content-Type: application/json' -d {}</pre>",
            settings.UPLOAD_BASE_URL,
            shlex.quote(text),
        )

    # --- actions

    @action(description="Cancel selected tasks", permissions=["cancel"], icon="cancel")
    def cancel_selected(self, request: HttpRequest, tasks: QuerySet[Task]) -> None:
        canceled = sum(self._cancel(request, task) for task in tasks.defer("inputs", "outputs"))
        if canceled:
            messages.success(request, f"{canceled} canceled.")

    @action(
        description="Cancel task",
        permissions=["cancel"],
        url_path="cancel",
        icon="cancel",
        variant=ActionVariant.DANGER,
        dialog=CANCEL_DIALOG,
    )
    def cancel_task(self, request: HttpRequest, form: Form, object_id: str) -> HttpResponse:
        task = self.get_object(request, object_id)
        if task is not None and self._cancel(request, task):
            messages.success(request, "The task is canceled.")
        page = reverse("admin:predictions_task_change", args=[object_id])
        return HttpResponse(headers={"HX-Redirect": page})

    @action(
        description="Run again",
        permissions=["run"],
        url_path="run-again",
        icon="replay",
        dialog=RUN_AGAIN_DIALOG,
    )
    def run_again(self, request: HttpRequest, form: Form, object_id: str) -> HttpResponse:
        """Queues a new task with the same model and inputs, and opens its page."""
        asked = self.get_object(request, object_id)
        page = reverse("admin:predictions_task_change", args=[object_id])
        if asked is not None and (task := self._submit(request, asked)) is not None:
            self.log_change(request, task, f"Run again, as {object_id} was.")
            messages.success(request, "This is the new task.")
            page = reverse("admin:predictions_task_change", args=[task.pk])
        return HttpResponse(headers={"HX-Redirect": page})

    @action(description="Try it", permissions=["run"], url_path="try-it", icon="science")
    def try_it(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Opens the playground with this task's inputs."""
        return HttpResponseRedirect(f"{reverse('agent-try')}?{urlencode({'task': object_id})}")

    def get_actions_detail(self, request: HttpRequest, object_id: str) -> list[Any]:
        """Offers Cancel for unfinished tasks, and Run again for tasks of this agent, whose inputs are known."""
        task = Task.objects.filter(pk=object_id, agent=settings.TASK_TYPE_NAME).values("status").first()
        offered = ("run_again", "try_it") if task else ()
        if task and task["status"] in UNFINISHED:
            offered = ("cancel_task", *offered)
        return [one for one in super().get_actions_detail(request, object_id) if one.action_name.endswith(offered)]

    def _submit(self, request: HttpRequest, asked: Task) -> Task | None:
        again = submission.PredictionRequest(
            model_name=asked.model_name,
            inputs=asked.inputs or {},
            model_version=asked.model_version,
            user_id=asked.user_id,
        )
        try:
            return submission.submit(again)
        except QueueFull:
            messages.error(request, "The queue is full: try again later.")
        except (QueueUnavailable, RecordError):
            messages.error(request, "It could not be queued: Redis or the database does not answer.")
        return None

    def _cancel(self, request: HttpRequest, task: Task) -> bool:
        try:
            submission.cancel(task.pk)
        except submission.AlreadyFinished as error:
            messages.warning(request, f"{task.pk}: {error}.")
        except submission.NotOurs:
            messages.warning(request, f"{task.pk} runs on another agent: cancel it there.")
        except (submission.TaskNotFound, RecordUnavailable):
            messages.error(request, f"{task.pk} could not be canceled.")
        else:
            self.log_change(request, task, "Canceled.")
            return True
        return False
