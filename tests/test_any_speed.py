"""What keeps the speed of the machine out of the outcome of tests."""

from hypothesis import HealthCheck, settings


def test_no_example_of_a_property_test_is_too_slow() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None and HealthCheck.too_slow in settings.default.suppress_health_check
