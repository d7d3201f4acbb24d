from django.db import migrations, models

from predictions.database.indexes import AddIndexConcurrently


class Migration(migrations.Migration):
    """Made beside the processes that go on reading and writing; may be run again when it was interrupted."""

    atomic = False

    dependencies = [
        ("predictions", "0004_ended_count"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="task",
            index=models.Index(fields=["model_name", "-created_at"], name="task_model_newest"),
        ),
        AddIndexConcurrently(
            model_name="task",
            index=models.Index(fields=["platform", "-created_at"], name="task_platform_newest"),
        ),
        AddIndexConcurrently(
            model_name="task",
            index=models.Index(fields=["request_id"], name="task_request"),
        ),
        AddIndexConcurrently(
            model_name="task",
            index=models.Index(
                condition=models.Q(("ended_at__isnull", False)), fields=["agent", "ended_at"], name="task_agent_ended"
            ),
        ),
    ]
