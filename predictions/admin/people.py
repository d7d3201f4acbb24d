"""Users, groups and the history of what they did in the admin."""

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.paginator import InfinitePaginator

from predictions.admin.permissions import ReadOnly


@admin.register(LogEntry)
class HistoryAdmin(ReadOnly, ModelAdmin):
    """Who did what in the admin, and when."""

    list_display = ["action_time", "user", "object_repr", "change_message"]
    list_filter = ["action_time"]
    search_fields = ["=user__username", "object_id"]
    list_select_related = ["user"]
    list_per_page = 50
    show_full_result_count = False
    paginator = InfinitePaginator


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class PersonAdmin(UserAdmin, ModelAdmin):  # type: ignore[type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class TeamAdmin(GroupAdmin, ModelAdmin):
    pass
