from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("predictions", "0003_run_permission"),
    ]

    operations = [
        migrations.CreateModel(
            name="EndedCount",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("agent", models.CharField(max_length=100)),
                ("minute", models.DateTimeField()),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("running", "Running"),
                            ("succeeded", "Succeeded"),
                            ("failed", "Failed"),
                            ("canceled", "Canceled"),
                        ],
                        max_length=10,
                    ),
                ),
                ("count", models.PositiveIntegerField()),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(fields=("agent", "minute", "status"), name="ended_count_once")
                ],
            },
        ),
    ]
